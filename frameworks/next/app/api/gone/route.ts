import { cookies } from 'next/headers'
import { notFound } from 'next/navigation'
import type { NextRequest } from 'next/server'
import { saving, session } from '../../../sessions'

export const GET = saving(async (_: NextRequest) => {
  const s = await session()
  s.update('n', (n = 0) => n + 1)
  const jar = await cookies()
  jar.set('own', '1')
  notFound()
})

export const POST = saving(async () => {
  const s = await session()
  s.set('n', 500)
  throw new Error('The handler failed.')
})
