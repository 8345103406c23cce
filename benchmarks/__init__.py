"""Measurements that README and docs quote; each writes its JSON to `results/`.

A package, since Opacus installs one of this name too.
"""
