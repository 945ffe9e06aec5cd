"""Testing: what proves an app and its adapters: conformance suites, private servers, a proxy that fails on purpose."""
