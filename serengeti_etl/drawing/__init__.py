"""The pixels of the drawn season: animals, landscapes, and photographs of both.

Lengths are fractions of the frame (or of the animal's height), so that any frame size shows the
same picture. Every random draw comes from a generator keyed by whole numbers: the bytes depend on
the keys alone, never on the clock, the order of work or the number of processes.
"""
