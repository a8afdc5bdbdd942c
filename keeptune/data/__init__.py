"""From rows of any format to masked, packed tokens; nothing here runs a model."""
