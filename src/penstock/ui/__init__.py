"""The dashboard, `penstock ui`: a server on this machine that shows what is recorded in a store, in a browser.

`routes` is the table of everything it answers; `guard` decides who is answered at all; `answers` has a module for each
page. It reads the store and never unpickles: no module of the library that could is loaded in its process. What acts on
runs is a process of its own (`actions`).
"""
