"""Dashboards as code: `python -m deploy.grafana` writes the JSON files beside this one, Grafana reads only those.

Nothing of the service imports this package, and it is no part of the images.
"""
