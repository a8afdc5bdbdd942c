"""One file per row format; `read(row) -> Example`."""
