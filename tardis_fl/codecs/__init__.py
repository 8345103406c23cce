"""How features become bytes: between client and server in training, between tiers in deployment.

`names` says which codecs there are (without PyTorch), `codec` is the contract that all of them
keep, and a user's own. Ours: `quantisers` maps features to the values that travel and back,
`packing` puts codes of a few bits into bytes, and `wire` makes the message of one sample.
"""
