"""Analyzers: questions asked of a network, with results that are data. One file for each analyzer."""

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.battery import BatteryFailure, check_analyzer
from ascertain.analyze.measuring import analyze
from ascertain.analyze.registry import analyzers, explain, find, make
from ascertain.analyze.report import report
from ascertain.analyze.result import Failure, Measured, Result, read_record
from ascertain.analyze.views import Kind, View, figure_of

__all__ = [
    "Analyzer",
    "BatteryFailure",
    "Context",
    "Example",
    "Failure",
    "Kind",
    "Measured",
    "Need",
    "Result",
    "View",
    "analyze",
    "analyzers",
    "check_analyzer",
    "explain",
    "figure_of",
    "find",
    "make",
    "read_record",
    "report",
]
