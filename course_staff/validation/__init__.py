"""Executing every notebook, comparing it with what is stored, and the report."""
