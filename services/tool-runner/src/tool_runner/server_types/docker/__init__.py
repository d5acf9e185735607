"""Servers of type ``docker``: the containers and images of one engine as tools."""
