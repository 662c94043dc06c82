"""What `ixt data` does: prepare, check, show, pack and describe image sets."""
