"""What people see: plain values for `--json`, and the text drawn from them."""
