"""Steps, substages, stages and the whole protocol."""
