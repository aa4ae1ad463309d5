// The clients of all contestants, with the same settings, so that no ratio compares two drivers.

import { urlOf } from '../parts/servers.ts'

/** The default size of both drivers' pools. */
const CONNECTIONS = 10

export const ioredis = async () => {
  const { Redis } = await import('ioredis')
  return new Redis(urlOf('redis'), { enableAutoPipelining: true })
}

/** This client joins all commands of one tick into one write by default. */
export const nodeRedis = async () => {
  const { createClient } = await import('redis')
  const client = createClient({ url: urlOf('redis') })
  client.on('error', () => {})
  await client.connect()
  return client
}

export const postgres = async () => {
  const { default: pg } = await import('pg')
  return new pg.Pool({ connectionString: urlOf('postgres'), max: CONNECTIONS })
}

export const mysql = async () => {
  const { createPool } = await import('mysql2/promise')
  return createPool({ uri: urlOf('mysql'), connectionLimit: CONNECTIONS })
}
