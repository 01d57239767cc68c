import type { Knex } from 'knex';
import type { Pool, QueryResultRow } from 'pg';

/** Reads that are written with knex and run on a pool of pg. */
export type Reads = Readonly<{
  /** Builds queries; it has no connection of its own. */
  knex: Knex;
  pool: Pool;
  /**
   * Runs what was built. knex's own pool would keep a connection whose query was given up after the
   * client's time-out, and hand it out again; pg closes it.
   */
  rows<Row extends QueryResultRow>(query: Knex.QueryBuilder): Promise<Row[]>;
}>;

export function createReads(knex: Knex, pool: Pool): Reads {
  return {
    knex,
    pool,
    async rows<Row extends QueryResultRow>(query: Knex.QueryBuilder) {
      const { sql, bindings } = query.toSQL().toNative();
      const { rows } = await pool.query<Row>(sql, [...bindings]);
      return rows;
    },
  };
}
