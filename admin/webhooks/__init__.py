"""Webhook endpoints of a project: made with a secret that is shown once, changed, rotated, tried; and what was delivered."""
