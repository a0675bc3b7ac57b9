"""The paper's theory as tools: finite-sample expressivity, kernel machines, minimum norm, Rademacher complexity."""
