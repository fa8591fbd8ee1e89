#!/usr/bin/env python3
"""Stands in for the training of a model: fits a line to points. usage: python3 train.py [FILE]"""

import math
import os
import sys
import time


def read(path):
    with open(path) as file:
        return [tuple(map(float, line.split(","))) for line in file]


def invent():
    return [(i / 100, 3 * i / 100 + 2 + math.sin(i * i) / 10) for i in range(200)]


def fit(points, steps=200, rate=0.3):
    """Slope and intercept, by gradient descent on the mean squared error."""
    slope = intercept = 0.0
    for _ in range(steps):
        errors = [(slope * x + intercept - y, x) for x, y in points]
        slope -= rate * sum(error * x for error, x in errors) / len(points)
        intercept -= rate * sum(error for error, _ in errors) / len(points)
    return slope, intercept


points = read(sys.argv[1]) if len(sys.argv) > 1 else invent()
time.sleep(float(os.environ.get("STAND_IN_SECONDS", "1")))
slope, intercept = fit(points)
print(f"y = {slope:.2f} x + {intercept:.2f}, from {len(points)} points")
print(f"GPUs of this job: {os.environ.get('CUDA_VISIBLE_DEVICES') or 'none'}")
