"""In: a seed. Out: a scene (person, garments, what is asked), its pictures and region maps, its instruction in words,
and what would be wrong about it. Plain numbers and torch, no network: whatever trains, calibrates or measures draws
here.
"""
