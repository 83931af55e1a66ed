"""One GPU: merge, engine, evaluation."""
