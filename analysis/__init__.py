"""From records to laws: load, fit, intervals, figures, and the offline report (`analysis.fit`, `analysis.report`)."""
