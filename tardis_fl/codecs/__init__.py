"""How features become bytes: between client and server in training, between tiers in deployment.

`names` says which codecs there are (without PyTorch), `quantisers` maps features to the values that
travel and back, `packing` puts codes of a few bits into bytes, and `wire` makes the message of one
sample.
"""
