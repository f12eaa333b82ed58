"""Rules of files: what a target's runtime asks of a file, checked on the file itself; one file per set of rules.

They are for runtimes that cannot be had here, and for forms that a runtime takes and computes wrongly.
"""
