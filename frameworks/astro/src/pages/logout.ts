import type { APIRoute } from 'astro'
import { readForm, session } from 'keepsake'

export const POST: APIRoute = async (context) => {
  const form = await readForm(context)
  if (form.ok) (await session(context)).invalidate()
  return context.redirect('/', 303)
}
