"""The migrations of `coupons`."""
