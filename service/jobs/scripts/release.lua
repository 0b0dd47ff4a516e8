-- Gives a reservation back; one that was spent on a catalogue upload keeps its quota. Answers 1 when there was one.
return unreserve(ARGV[1], ARGV[2] == '1') and 1 or 0
