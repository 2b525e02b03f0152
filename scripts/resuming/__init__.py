"""What upload.py sends several files with, and --resume: a client of tus 1.0 that goes on."""

from resuming.many import Script, send_all

__all__ = ["Script", "send_all"]
