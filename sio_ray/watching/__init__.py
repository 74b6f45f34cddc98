"""How a run is watched: events in a file of its folder, metrics that Ray exports, and a Grafana dashboard of them."""
