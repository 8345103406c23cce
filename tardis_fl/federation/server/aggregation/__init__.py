"""From the clients' updates to the next weights: rules, robust ones too, and optimisers."""
