-- Gives a reservation back. Answers 1 when there was one.
return unreserve(ARGV[1]) and 1 or 0
