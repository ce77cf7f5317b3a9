"""The figures of a report, each as inline SVG in the page's colours. `catalogue` lists them."""
