/* team.h -- threads that start together, each on a processor of its own. */
#ifndef TEAM_H
#define TEAM_H

#define MOST_THREADS 1024

/* What one call of a thread did: FLOPs or bytes. */
typedef double (*team_work)(int thread, int threads);

/* Work per second of all threads together, each calling `work` until the time is over; negative
 * when a thread cannot be started. */
double team_rate(int threads, double seconds, team_work work);

#endif
