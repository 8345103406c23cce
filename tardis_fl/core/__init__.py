"""What all rooms share: randomness, compute, atomic files, plug-ins, and the guard around torchvision."""
