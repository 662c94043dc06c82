"""`ixt bench count`: launches, bytes and operations of a training step, without a device."""
