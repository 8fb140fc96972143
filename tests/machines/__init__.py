"""The parts that money rests on as Hypothesis state machines: any order of what can happen, beside a model in plain Python.

In every test run each plays a few dozen short games, always the same, and a failure prints the game as a program. `make
machines` (MACHINES=deep) plays many long ones, different each time, and looks for the shortest that fails.
"""
