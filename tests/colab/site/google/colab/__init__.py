"""A stand-in for Colab's own package, for tests: as far as the course and its libraries look.

The real one is googlecolab/colabtools on GitHub. There is no `google/__init__.py` here either:
`google` stays a namespace, as on Colab, where protobuf and others share it.
"""
