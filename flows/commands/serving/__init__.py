"""Commands that serve channels to tenants, and talk to them."""
