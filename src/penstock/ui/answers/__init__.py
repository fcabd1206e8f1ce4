"""The answers of the dashboard's API: for each page a module of functions from records and parameters to a document."""
