"""Systems: blueprints on the public API; each is a small module that can be copied and made one's own."""
