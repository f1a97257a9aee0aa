"""A package: test_breizhcrops.py exists elsewhere too."""
