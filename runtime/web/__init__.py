"""The web page: the stream in any browser, numbers for Prometheus. Needs the extra `web`."""
