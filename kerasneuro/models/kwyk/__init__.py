"""The Bayesian MeshNets of kwyk: 50 brain structures and how sure the network is of them."""
