"""What benches share: prebuilt requests, clients, servers as processes, CPU time, statistics, tables."""
