"""What things are: Structs and enums without any input or output."""
