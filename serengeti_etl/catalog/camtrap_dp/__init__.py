"""Camtrap DP, the exchange format of camera-trap platforms: read, validated, written."""
