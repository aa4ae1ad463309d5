// The clients of every contestant: the same, with the same settings, so that no ratio is one of two drivers.

import { urlOf } from '../parts/servers.ts'

/** The size that both drivers' pools have by themselves. */
const CONNECTIONS = 10

export const ioredis = async () => {
  const { Redis } = await import('ioredis')
  return new Redis(urlOf('redis'), { enableAutoPipelining: true })
}

/** It sends what was asked for in one tick as one write by itself. */
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
