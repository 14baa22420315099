"""How a procedural city is painted: textures, sprites, signs, panoramas."""
