"""What a project bills, as far as it is declared: its billed meters."""
