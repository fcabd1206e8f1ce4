"""What is shown of flows while they run.

`lines` turns counts into lines of a terminal: plain data in, text out; `penstock watch` uses it as well. `screen` keeps
such lines below everything else that is written to the terminal. `pace` knows how fast it goes. `following` looks at
the flows of this process and decides who gets to see what.
"""
