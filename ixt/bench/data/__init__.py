"""`ixt bench data` and `ixt bench e2e`: loaders beside what a device takes."""
