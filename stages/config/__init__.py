"""What a recipe can say of each stage: classes of plain values, which import nothing heavy."""
