"""Timing attacks on one server: does the time of a guess tell what another has sent?"""
