"""What the people of an organisation reach over HTTP: sessions, tables, projects, jobs, trails."""
