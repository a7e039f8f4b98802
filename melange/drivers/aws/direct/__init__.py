"""The calls that carry messages, written, signed and sent without botocore's machinery.

botocore still finds credentials, endpoints and settings, opens the connections (so TLS, proxies and client certificates
are its own), and reads error answers. ``transport.py`` beside this package decides when a call comes here.
"""
