def write_search_page(result, config, path):
    path.write_text("x")
